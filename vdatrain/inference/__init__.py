"""Videos of any length to disparity; export."""
