"""OpenAI's interface, with what other servers of open models add to it: a module for each endpoint.

chat             /v1/chat/completions
completions      /v1/completions
responses        /v1/responses
response_events  what it answers, whole or as events
vectors          /v1/embeddings and /v1/rerank
listing          /v1/models
"""
