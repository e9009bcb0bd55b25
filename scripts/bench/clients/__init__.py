"""The programs that are measured, a module each. Every one has the same functions, as far as its client can do that:

    connect(url)                what keeps connections, made once
    texts(client, tokens)       an iterator over the pieces of text of a streamed chat, `tokens` tokens long
    ask(client)                 the text of a chat's reply in one piece
    connect_async(url), texts_async(client, tokens)     the same, asynchronous

A client that does not notice that its connection was closed says so by `RECONNECT`: llama-server closes a connection on
which it has streamed.

They import only what such a program has to, and are written as its documentation shows.
"""

PROMPT = "Why is the sky blue?"
MESSAGES = [{"role": "user", "content": PROMPT}]
