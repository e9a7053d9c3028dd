"""Networks alone: no file is read here, and Lightning is not needed."""
