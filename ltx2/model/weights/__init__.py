"""Loading a model's weights from folders and files, changing them by LoRAs, and placing them on a device."""
