"""What is made of blobs for answers: files, joins, live films, pictures and reports."""
