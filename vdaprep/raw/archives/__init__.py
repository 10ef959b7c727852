"""Archives read in place: zip, tar and tar.gz are listed once, and members read by where their bytes lie."""
