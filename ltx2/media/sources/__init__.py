"""Reading a user's videos and sound: bounded, in child processes, with listed demuxers only."""
