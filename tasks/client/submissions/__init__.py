"""What a submission consists of, and how it is made once although a client may die or send it again."""
