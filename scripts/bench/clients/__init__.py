"""The measured programs, one module each. All have the same functions, as far as the client supports them:

    connect(url)                create the client, which keeps connections open
    texts(client, tokens)       yield the pieces of text of a streamed chat with `tokens` tokens
    ask(client)                 return the text of a one-shot chat
    connect_async(url), texts_async(client, tokens)     the same, asynchronous

A module with `RECONNECT` needs a new client for each stream: llama-server closes the connection after a stream, which
this client does not notice.

The modules import only what such a program needs, and are written as the client's documentation shows.
"""

PROMPT = "Why is the sky blue?"
MESSAGES = [{"role": "user", "content": PROMPT}]
