"""Independent tasks on processes of this machine or of a Ray cluster."""
