"""From latents to pictures and sound, and back."""
