"""OpenAI's interface, with what other servers of open models add to it: a module for each endpoint."""
