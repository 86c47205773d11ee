// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The memory of each simulated daemon: what its objects allocate comes from an arena that dies with its process.
 *
 * A daemon that is killed frees nothing; its arena is forgotten as a whole, so a walk leaks nothing. A block that is freed
 * is filled with a pattern, so that a later use shows. Under a sanitizer blocks are the C library's, so that it sees each
 * use after free; those of killed daemons are then leaked on purpose.
 *
 * An allocation fails where the walk says so: node_starves().
 */
#include "heap.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "judge.h"
#include "node.h"

#define ARENA (48UL << 20)
#define NR_CLASSES 32
#define FREED 0xdb
#define MAGIC_USED 0x5ed0000051310001ULL
#define MAGIC_FREE 0xf4ee000051310002ULL

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED true
#else
#define IS_SANITIZED false
#endif

struct block {
	uint64_t magic;
	uint32_t class, spare;
	struct block *next; /* of free ones; the user's memory begins here */
};

#define HEAD offsetof(struct block, next)

struct heap {
	char *arena;
	size_t used, in_use;
	struct block *free[NR_CLASSES];
};

struct heap *heap_new(void)
{
	struct heap *h = calloc(1, sizeof(*h));

	if (!h)
		abort();
	h->arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (h->arena == MAP_FAILED)
		abort();
	return h;
}

/** heap_forget() - its process is gone */
void heap_forget(struct heap *h)
{
	h->used = h->in_use = 0;
	memset(h->free, 0, sizeof(h->free));
}

/** heap_in_use() - blocks that are not freed */
size_t heap_in_use(const struct heap *h)
{
	return h->in_use;
}

static unsigned int class_of(size_t len)
{
	unsigned int c = 5;

	while ((1UL << c) < len + HEAD)
		c++;
	return c;
}

static void *take(size_t len)
{
	struct heap *h = node_now->heap;
	unsigned int c = class_of(len);
	struct block *b;

	if (len > ARENA / 4)
		return NULL;
	b = h->free[c];
	if (b) {
		h->free[c] = b->next;
	} else {
		b = (struct block *)(h->arena + h->used);
		h->used += 1UL << c;
		if (h->used > ARENA) {
			judge_fail("leak", "a daemon has used %lu MiB", ARENA >> 20);
			h->used = 0;
		}
	}
	h->in_use++;
	b->magic = MAGIC_USED;
	b->class = c;
	return &b->next;
}

static struct block *block_of(void *p)
{
	return (struct block *)((char *)p - HEAD);
}

void *__wrap_calloc(size_t nr, size_t len);
void *__wrap_realloc(void *p, size_t len);
void *__wrap_reallocarray(void *p, size_t nr, size_t len);
void *__wrap_malloc(size_t len);
void __wrap_free(void *p);
char *__wrap_strdup(const char *text);
int __wrap_asprintf(char **to, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void *__wrap_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off);
int __wrap_munmap(void *p, size_t len);
int __wrap_mlock(const void *p, size_t len);

void *__wrap_malloc(size_t len)
{
	if (node_starves()) {
		errno = ENOMEM;
		return NULL;
	}
	return IS_SANITIZED ? malloc(len) : take(len);
}

void *__wrap_calloc(size_t nr, size_t len)
{
	size_t all;
	void *p = __builtin_mul_overflow(nr, len, &all) ? NULL : __wrap_malloc(all);

	return p ? memset(p, 0, all) : NULL;
}

void __wrap_free(void *p)
{
	struct block *b = p ? block_of(p) : NULL;
	size_t room;

	if (!p)
		return;
	if (IS_SANITIZED) {
		free(p);
		return;
	}
	if (b->magic != MAGIC_USED) {
		judge_fail("memory", "a block is freed that is %s", b->magic == MAGIC_FREE ? "free already" : "none");
		return;
	}
	room = (1UL << b->class) - HEAD;
	memset(p, FREED, room < 4096 ? room : 4096);
	b->magic = MAGIC_FREE;
	b->next = node_now->heap->free[b->class];
	node_now->heap->free[b->class] = b;
	node_now->heap->in_use--;
}

void *__wrap_realloc(void *p, size_t len)
{
	size_t room;
	void *to;

	if (IS_SANITIZED)
		return node_starves() ? NULL : realloc(p, len);
	to = __wrap_malloc(len);
	if (!to || !p)
		return to;
	room = (1UL << block_of(p)->class) - HEAD;
	memcpy(to, p, room < len ? room : len);
	__wrap_free(p);
	return to;
}

void *__wrap_reallocarray(void *p, size_t nr, size_t len)
{
	size_t all;

	return __builtin_mul_overflow(nr, len, &all) ? NULL : __wrap_realloc(p, all);
}

char *__wrap_strdup(const char *text)
{
	size_t len = strlen(text) + 1;
	char *to = __wrap_malloc(len);

	return to ? memcpy(to, text, len) : NULL;
}

int __wrap_asprintf(char **to, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	*to = __wrap_malloc((size_t)n + 1);
	if (!*to)
		return -1;
	va_start(ap, fmt);
	vsnprintf(*to, (size_t)n + 1, fmt, ap);
	va_end(ap);
	return n;
}

/* Bitmaps of page sets; the journal maps its marks only to lock them. */
void *__wrap_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off)
{
	void *p = __wrap_calloc(1, len);

	(void)at;
	(void)prot;
	(void)flags;
	(void)fd;
	(void)off;
	return p ? p : MAP_FAILED;
}

int __wrap_munmap(void *p, size_t len)
{
	(void)len;
	__wrap_free(p);
	return 0;
}

int __wrap_mlock(const void *p, size_t len)
{
	(void)p;
	(void)len;
	return 0;
}
