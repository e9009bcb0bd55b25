"""An asyncio service that summarizes each line it receives over TCP. One client serves all connections.

python3 scripts/examples/service.py [PORT [ENDPOINT]]          # try it: nc localhost 9000
"""

import asyncio
import sys

from flynn import AsyncLlamaCppClient, FlynnError


async def main() -> None:
    port, *endpoint = sys.argv[1:] or ["9000"]
    async with AsyncLlamaCppClient(*endpoint, retries=2) as client:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while line := await reader.readline():
                    prompt = f"Sum up in a few words: {line.decode(errors='replace')}"
                    async with client.chat_stream(prompt, max_tokens=60) as stream:
                        async for text in stream.text():
                            writer.write(text.encode())
                            await writer.drain()
                    writer.write(b"\n")
            except FlynnError as error:
                writer.write(f"error: {error}\n".encode())
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", int(port))
        print(f"listening at 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        async with server:
            await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
