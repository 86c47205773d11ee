/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SIM_FILES_H
#define SIM_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct end;
struct inode;
struct node;
struct vmm;

#define FILES_FIRST (1 << 20) /* no real descriptor is that high */

enum file_kind { FILE_END, FILE_LISTENER, FILE_EVENT, FILE_EPOLL, FILE_TIMER, FILE_MEMORY, FILE_DISK };

#define FILES_MAX_PENDING 64

/**
 * struct file - what descriptors of simulated daemons stand for
 * @refs: descriptors, and those on their way in a connection
 * @end: of a connection
 * @uri, @pending: of a listener: its address, and ends that nobody has accepted
 * @count: of an eventfd; @at_ns: when a timerfd expires, 0: it is not set
 * @inode, @off, @appends: of a file of the host; a folder has no inode; @uri is its path
 * @content: of a memfd with device state: which state; @ram_of: it is a VMM's RAM
 */
struct file {
	enum file_kind kind;
	unsigned int refs;
	struct end *end;
	char uri[128];
	struct end *pending[FILES_MAX_PENDING];
	unsigned int nr_pending;
	uint64_t count, at_ns, content;
	struct vmm *ram_of;
	struct inode *inode;
	size_t off;
	bool appends;
};

void files_begin(void);
struct file *file_new(enum file_kind kind);
void file_put(struct file *f);
int files_open(struct node *n, struct file *f);
void files_adopt(int fd);
struct file *files_get(int fd);
void files_close(int fd);
void files_close_all(const struct node *n);
unsigned int files_nr_open(const struct node *n);

int files_listen(const char *uri);
struct end *files_connect(const char *uri, bool is_local);
void files_raise(struct file *event);

#endif
