"""The text in pictures (OCR): a job reads it, and it is kept with the items and searched like captions."""
