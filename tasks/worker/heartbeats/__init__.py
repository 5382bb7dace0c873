"""What a worker says of itself and its children, and the memory in which they tell it each other."""
