"""What a segment is made from besides the state before it: images, sounds, and what is before and after it."""
