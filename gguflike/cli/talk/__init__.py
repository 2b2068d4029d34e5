"""A conversation at the terminal, or through a pipe.

conversation  what was said, and how the next answer fits into the context: nothing here prints
files         files that are named in it: nor here
commands      the table of /help, /set, /undo ...
session       answers, and says what there is to say beside
loop          reads a message or command, has it answered or done, and goes on whatever goes wrong
editor        messages typed at a terminal, by prompt-toolkit
piped         messages from a pipe or a file
keyboard      what is typed while nobody reads: kept, not shown, never left to the shell
"""
