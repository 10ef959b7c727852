"""Raw downloads, read in place: archives, and the formats of frames."""
