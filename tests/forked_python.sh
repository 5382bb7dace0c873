#!/bin/sh
# Python of a forked process: has a worker of Celery forked, too, and starts a new interpreter for anything else.
if [ "$1 $2" = "-m celery" ]; then
	shift 2
	exec python -ES "$(dirname "$0")/forked_command.py" celery.__main__ "$@"
fi
exec python "$@"
