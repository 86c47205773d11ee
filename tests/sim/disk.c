// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The files of a simulated host: a tmpfs (run/) and a disk (state/) that forgets what was not synced.
 *
 * Theory of operation
 *
 * A file has what programs see, and what the disk has. Each write and each truncation since the last sync of the file is
 * kept in order; a sync makes them the disk's. A loss of power leaves the first few of them, and of the next one a part of
 * its bytes. Names are as files are: a rename, a link and an unlink are the disk's after a sync of their folder, and a loss
 * of power leaves the first few of those since then. A sync that fails loses what it should have written, as Linux does:
 * programs still see it, and the disk never gets it.
 *
 * What is on the tmpfs is gone after a loss of power, and there whatever else ends.
 */
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "files.h"
#include "judge.h"
#include "node.h"
#include "world.h"

#define NAME_LEN 48
#define NAMES_MAX 12

struct bytes {
	uint8_t *at;
	size_t len, room;
};

/* @len: of bytes to be written at @off; with @truncates the length is @off from then on */
struct change {
	struct change *next;
	bool truncates;
	size_t off, len;
	uint8_t bytes[];
};

struct inode {
	struct bytes seen, kept;
	struct change *first, **last;
};

struct names {
	struct {
		char name[NAME_LEN];
		struct inode *inode; /* NULL: this place is free */
	} all[NAMES_MAX];
};

/* A name that means @inode from then on; NULL: it means nothing */
struct renaming {
	struct renaming *next;
	char name[NAME_LEN];
	struct inode *inode;
	bool with_next; /* one rename() is two of them */
};

struct disk {
	struct names seen, kept;
	struct renaming *first, **last;
};

struct disk *disk_new(void)
{
	struct disk *d = world_alloc(sizeof(*d));

	d->last = &d->first;
	return d;
}

/* ---- bytes ---- */

static void grow(struct bytes *b, size_t len)
{
	if (len > b->room) {
		uint8_t *to;

		b->room = len * 2 + 4096;
		to = world_alloc(b->room);
		if (b->len)
			memcpy(to, b->at, b->len);
		b->at = to;
	}
	if (len > b->len) {
		memset(b->at + b->len, 0, len - b->len);
		b->len = len;
	}
}

static void write_bytes(struct bytes *b, size_t off, const void *from, size_t len)
{
	if (!len)
		return;
	if (off + len > b->len)
		grow(b, off + len);
	memcpy(b->at + off, from, len);
}

static void apply(struct bytes *b, const struct change *c, size_t most)
{
	if (!c->truncates)
		write_bytes(b, c->off, c->bytes, c->len < most ? c->len : most);
	else if (c->off < b->len)
		b->len = c->off;
	else
		grow(b, c->off);
}

static void change(struct inode *i, bool truncates, size_t off, const void *from, size_t len)
{
	struct change *c = world_alloc(sizeof(*c) + len);

	*c = (struct change){ .truncates = truncates, .off = off, .len = len };
	if (len)
		memcpy(c->bytes, from, len);
	apply(&i->seen, c, len);
	*i->last = c;
	i->last = &c->next;
}

static void forget_changes(struct inode *i)
{
	i->first = NULL;
	i->last = &i->first;
}

static struct inode *inode_new(void)
{
	struct inode *i = world_alloc(sizeof(*i));

	forget_changes(i);
	return i;
}

static void sync_inode(struct inode *i)
{
	for (const struct change *c = i->first; c; c = c->next)
		apply(&i->kept, c, c->len);
	forget_changes(i);
}

/* ---- names ---- */

static struct inode **place_of(struct names *n, const char *name)
{
	struct inode **none = NULL;

	for (unsigned int k = 0; k < NAMES_MAX; k++) {
		if (!n->all[k].inode)
			none = none ? none : &n->all[k].inode;
		else if (!strcmp(n->all[k].name, name))
			return &n->all[k].inode;
	}
	if (!none)
		judge_fail("leak", "more than %d files are in the daemon's folders", NAMES_MAX);
	return none;
}

static void set_name(struct names *n, const char *name, struct inode *inode)
{
	struct inode **place = place_of(n, name);

	if (!place)
		return;
	*place = inode;
	for (unsigned int k = 0; k < NAMES_MAX; k++)
		if (&n->all[k].inode == place)
			snprintf(n->all[k].name, sizeof(n->all[k].name), "%s", name);
}

static struct inode *find(struct names *n, const char *name)
{
	for (unsigned int k = 0; k < NAMES_MAX; k++)
		if (n->all[k].inode && !strcmp(n->all[k].name, name))
			return n->all[k].inode;
	return NULL;
}

static bool is_on_tmpfs(const char *name)
{
	return !strncmp(name, "run", 3);
}

static void name_means(struct disk *d, const char *name, struct inode *inode, bool with_next)
{
	struct renaming *r;

	set_name(&d->seen, name, inode);
	if (is_on_tmpfs(name))
		return;
	r = world_alloc(sizeof(*r));
	*r = (struct renaming){ .inode = inode, .with_next = with_next };
	snprintf(r->name, sizeof(r->name), "%s", name);
	*d->last = r;
	d->last = &r->next;
}

static void sync_names(struct disk *d)
{
	for (const struct renaming *r = d->first; r; r = r->next)
		set_name(&d->kept, r->name, r->inode);
	d->first = NULL;
	d->last = &d->first;
}

/* ---- a loss of power ---- */

static void lose_some(struct inode *i)
{
	unsigned int nr = 0;
	uint64_t keeps;

	for (const struct change *c = i->first; c; c = c->next)
		nr++;
	keeps = world_below(nr + 1);
	for (const struct change *c = i->first; c; c = c->next, keeps--) {
		apply(&i->kept, c, keeps ? c->len : world_below(c->len + 1));
		if (!keeps)
			break;
	}
	forget_changes(i);
	i->seen.len = 0;
	if (i->kept.len)
		write_bytes(&i->seen, 0, i->kept.at, i->kept.len);
}

/** disk_lose_power() - what a later boot finds */
void disk_lose_power(struct disk *d)
{
	unsigned int nr = 0;
	uint64_t keeps;

	for (const struct renaming *r = d->first; r; r = r->next)
		nr++;
	keeps = world_below(nr + 1);
	for (const struct renaming *r = d->first; r && keeps; r = r->next, keeps--) {
		set_name(&d->kept, r->name, r->inode);
		keeps += r->with_next && keeps == 1;
	}
	d->first = NULL;
	d->last = &d->first;
	d->seen = d->kept;
	for (unsigned int k = 0; k < NAMES_MAX; k++)
		if (d->seen.all[k].inode)
			lose_some(d->seen.all[k].inode);
}

/* ---- calls ---- */

int __wrap_open(const char *path, int flags, ...);
ssize_t __wrap_read(int fd, void *to, size_t len);
ssize_t __wrap_write(int fd, const void *from, size_t len);
ssize_t __wrap_pwrite(int fd, const void *from, size_t len, off_t off);
off_t __wrap_lseek(int fd, off_t off, int whence);
int __wrap_ftruncate(int fd, off_t len);
int __wrap_fallocate(int fd, int mode, off_t off, off_t len);
int __wrap_fsync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_rename(const char *from, const char *to);
int __wrap_link(const char *from, const char *to);
int __wrap_unlink(const char *path);
int __wrap_statfs(const char *path, struct statfs *to);
int __wrap_flock(int fd, int op);
ssize_t __wrap_pread(int fd, void *to, size_t len, off_t off);
int __wrap_stat(const char *path, struct stat *to);
int __wrap_fstat(int fd, struct stat *to);

static int fail(int err)
{
	errno = err;
	return -1;
}

/* What writing to @name fails with; 0: it does not. */
static int write_error(const char *name)
{
	return is_on_tmpfs(name) ? node_now->marks_fail : node_now->disk_fails;
}

int __wrap_open(const char *path, int flags, ...)
{
	struct disk *d = node_now->disk;
	struct inode *i = find(&d->seen, path);
	struct file *f;

	if (node_starves())
		return fail(EMFILE);
	if (!i && !(flags & (O_CREAT | O_DIRECTORY)))
		return fail(ENOENT);
	if (!i && flags & O_CREAT && write_error(path))
		return fail(write_error(path));
	f = file_new(FILE_DISK);
	snprintf(f->uri, sizeof(f->uri), "%s", path);
	if (!i && flags & O_CREAT) {
		i = inode_new();
		name_means(d, path, i, false);
	}
	if (i && flags & O_TRUNC && i->seen.len)
		change(i, true, 0, NULL, 0);
	f->inode = i;
	f->appends = flags & O_APPEND;
	return files_open(node_now, f);
}

ssize_t __wrap_read(int fd, void *to, size_t len)
{
	struct file *f = files_get(fd);
	struct bytes *b = f && f->inode ? &f->inode->seen : NULL;

	node_call();
	if (!b)
		return fail(EBADF);
	if (f->off >= b->len)
		return 0;
	if (len > b->len - f->off)
		len = b->len - f->off;
	memcpy(to, b->at + f->off, len);
	f->off += len;
	return (ssize_t)len;
}

ssize_t __wrap_pread(int fd, void *to, size_t len, off_t off)
{
	struct file *f = files_get(fd);
	size_t before = f ? f->off : 0;
	ssize_t n;

	if (!f)
		return fail(EBADF);
	f->off = (size_t)off;
	n = __wrap_read(fd, to, len);
	f->off = before;
	return n;
}

/* A full disk takes a part of what it was given. */
static ssize_t write_at(struct file *f, const void *from, size_t len, size_t off)
{
	int err = f && f->inode ? write_error(f->uri) : EBADF;

	node_call();
	if (err && (err != ENOSPC || len < 2 || world_chance(1, 2)))
		return fail(err);
	if (err)
		len = 1 + world_below(len - 1);
	change(f->inode, false, off, from, len);
	return (ssize_t)len;
}

ssize_t __wrap_write(int fd, const void *from, size_t len)
{
	struct file *f = files_get(fd);
	ssize_t n = write_at(f, from, len, !f || !f->inode ? 0 : f->appends ? f->inode->seen.len : f->off);

	if (n > 0)
		f->off += (size_t)n;
	return n;
}

ssize_t __wrap_pwrite(int fd, const void *from, size_t len, off_t off)
{
	return write_at(files_get(fd), from, len, (size_t)off);
}

off_t __wrap_lseek(int fd, off_t off, int whence)
{
	struct file *f = files_get(fd);

	if (!f || !f->inode)
		return fail(EBADF);
	f->off = (size_t)off + (whence == SEEK_END ? f->inode->seen.len : whence == SEEK_CUR ? f->off : 0);
	return (off_t)f->off;
}

int __wrap_ftruncate(int fd, off_t len)
{
	struct file *f = files_get(fd);

	node_call();
	if (!f)
		return fail(EBADF);
	if (f->inode)
		change(f->inode, true, (size_t)len, NULL, 0);
	return 0;
}

int __wrap_fallocate(int fd, int mode, off_t off, off_t len)
{
	struct file *f = files_get(fd);

	(void)mode;
	if (!f)
		return fail(EBADF);
	if (f->inode && write_error(f->uri))
		return fail(write_error(f->uri));
	if (f->inode && (size_t)(off + len) > f->inode->seen.len)
		change(f->inode, true, (size_t)(off + len), NULL, 0);
	return 0;
}

int __wrap_fsync(int fd)
{
	struct file *f = files_get(fd);

	node_call();
	if (!f)
		return fail(EBADF);
	if (write_error(f->uri) == EIO) {
		if (f->inode)
			forget_changes(f->inode);
		return fail(EIO);
	}
	if (f->inode)
		sync_inode(f->inode);
	else
		sync_names(node_now->disk);
	return 0;
}

int __wrap_fdatasync(int fd)
{
	return __wrap_fsync(fd);
}

int __wrap_rename(const char *from, const char *to)
{
	struct disk *d = node_now->disk;
	struct inode *i = find(&d->seen, from);

	node_call();
	if (!i)
		return fail(ENOENT);
	if (write_error(to))
		return fail(write_error(to));
	name_means(d, to, i, true);
	name_means(d, from, NULL, false);
	return 0;
}

int __wrap_link(const char *from, const char *to)
{
	struct inode *i = find(&node_now->disk->seen, from);

	node_call();
	if (!i || find(&node_now->disk->seen, to))
		return fail(i ? EEXIST : ENOENT);
	if (write_error(to))
		return fail(write_error(to));
	name_means(node_now->disk, to, i, false);
	return 0;
}

int __wrap_unlink(const char *path)
{
	node_call();
	if (!find(&node_now->disk->seen, path))
		return fail(ENOENT);
	name_means(node_now->disk, path, NULL, false);
	return 0;
}

int __wrap_statfs(const char *path, struct statfs *to)
{
	memset(to, 0, sizeof(*to));
	to->f_type = is_on_tmpfs(path) ? TMPFS_MAGIC : 0xef53;
	return 0;
}

/* A host has one daemon: nobody else holds the lock. */
int __wrap_flock(int fd, int op)
{
	(void)op;
	return files_get(fd) ? 0 : fail(EBADF);
}

/* Files and folders differ by their numbers; nothing else of them is asked for. */
int __wrap_stat(const char *path, struct stat *to)
{
	memset(to, 0, sizeof(*to));
	to->st_ino = 1 + is_on_tmpfs(path);
	return 0;
}

int __wrap_fstat(int fd, struct stat *to)
{
	struct file *f = files_get(fd);

	if (!f)
		return fail(EBADF);
	memset(to, 0, sizeof(*to));
	to->st_ino = (ino_t)(uintptr_t)(f->inode ? (void *)f->inode : (void *)f);
	return 0;
}
