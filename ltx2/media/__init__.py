"""Pictures, clips, films and sound: everything that is encoded or decoded."""
