"""Object stores: S3, and Google's and Azure's.

objects        reading, listing, conditional writing
remote_output  the folder in a store that a conversion writes into"""
