"""Sheets of captions: read them in the forms that people have, and find the picture of each row."""
