"""What a spec names besides its models: images, a video and sound, read and stored for a job."""
