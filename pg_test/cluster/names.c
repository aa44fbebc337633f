/* Look-ups as a test wants them: loaded into a server with LD_PRELOAD, in front of the C library's getaddrinfo.
 *
 * The file that TEST_NAMES names has lines "name address address…". The first line of a name is its first answer, the
 * next line its next one; the last line stays. The address "-" says that there is no such name; the address "?" is never
 * found: the look-up does not return. The names that were asked for are appended to the same path with ".asked". While there is
 * a file at the same path with ".stopped", no name of the file is answered, as without name servers: after ten seconds a
 * look-up says so. What the file does not have goes to the C library. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef int look_up(const char *, const char *, const struct addrinfo *, struct addrinfo **);

/* Waits for name servers; whether there are any in time. */
static int is_answered(const char *path)
{
	char stopped[1024];
	int left = 10 * 100;

	snprintf(stopped, sizeof stopped, "%s.stopped", path);
	while (access(stopped, F_OK) == 0 && left-- > 0)
		usleep(10000);
	return left > 0;
}

/* How often a name was asked for, by the file of those that were. */
static int asked_before(const char *path, const char *name)
{
	char line[1024];
	int count = 0;
	FILE *asked = fopen(path, "r");

	while (asked && fgets(line, sizeof line, asked)) {
		line[strcspn(line, "\n")] = 0;
		count += strcmp(line, name) == 0;
	}
	if (asked)
		fclose(asked);
	return count;
}

/* What a look-up that does not return works with, until the library's destructor takes it away, as exit() runs it. So it is
 * with the libraries of name services: a process that exits beside such a look-up may crash, and one with this library does. */
static volatile char *needed;
#define NEEDED 4096

static void hang(void)
{
	void *memory = mmap(NULL, NEEDED, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		abort();
	needed = memory;
	for (;;) {
		(void)*needed;
		usleep(1000);
	}
}

__attribute__((destructor)) static void take_away(void)
{
	if (needed && munmap((void *)needed, NEEDED) == 0)
		usleep(50000);
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
	look_up *real = (look_up *)dlsym(RTLD_NEXT, "getaddrinfo");
	const char *path = getenv("TEST_NAMES");
	char asked[1024], line[1024], answer[1024] = "", *word, *rest;
	struct addrinfo **end = found;
	FILE *names = path && name ? fopen(path, "r") : NULL;
	int left;

	if (!names)
		return real(name, service, hints, found);
	snprintf(asked, sizeof asked, "%s.asked", path);
	left = asked_before(asked, name);
	while (fgets(line, sizeof line, names)) {
		word = strtok_r(line, " \n", &rest);
		if (word && strcmp(word, name) == 0) {
			strcpy(answer, rest);
			if (left-- == 0)
				break;
		}
	}
	fclose(names);
	if (!*answer)
		return real(name, service, hints, found);
	if ((names = fopen(asked, "a"))) {
		fprintf(names, "%s\n", name);
		fclose(names);
	}
	if (strcspn(answer, " \n") == 1 && *answer == '?')
		hang();
	if (!is_answered(path))
		return EAI_AGAIN;
	*found = NULL;
	for (word = strtok_r(answer, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest)) {
		int code = strcmp(word, "-") == 0 ? EAI_NONAME : real(word, service, hints, end);

		if (code)
			return code;
		while (*end)
			end = &(*end)->ai_next;
	}
	return 0;
}
