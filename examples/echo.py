"""An echo server and two clients of it, in one process: tasks of one hub."""

import vanilla


def serve(conn):
    """Runs in a task of its own for each connection, which ends with it."""
    for line in iter(conn.recv_line, b"quit"):
        conn.send([b"Echo: ", line, b"\n"])


def talk(hub, name, port):
    with hub.tcp.connect(port) as conn:
        conn.send("hello\n")
        print(f"{name} says: {conn.recv_line(timeout=5000).decode()}")
        conn.send("quit\n")


def main():
    with vanilla.Hub() as h:
        server = h.tcp.listen()
        server.consume(serve)
        for name in "one", "two":
            h.spawn(talk, h, name, server.port).join()
        server.close()
        try:
            h.tcp.connect(server.port)
        except vanilla.ConnectionLost:
            print("the server is gone")


if __name__ == "__main__":
    main()
