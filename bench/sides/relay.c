/* What `relay.py` does between two connections that it has accepted, in C: copies bytes from one to the other until the
   first ends, and then waits to be killed, so that its memory can be looked at.

       relay SOURCE TARGET      file descriptors of connected sockets */

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[256 << 10];

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    int source = atoi(argv[1]);
    int target = atoi(argv[2]);
    ssize_t got, put;

    while ((got = read(source, buffer, sizeof buffer)) > 0)
        for (char *from = buffer; from < buffer + got; from += put)
            if ((put = write(target, from, buffer + got - from)) <= 0)
                return 1;
    if (got < 0 || shutdown(target, SHUT_WR) < 0)
        return 1;
    return pause();
}
