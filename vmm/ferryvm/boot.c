// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Boots what stock QEMU's -kernel boots as multiboot: a 32-bit ELF file with a multiboot
 * header. Loads it, writes the multiboot information, and sets the vCPUs' registers.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <stdlib.h>
#include <unistd.h>

#include "../guest/guest_stats.h"
#include "vm.h"

#define INFO_GPA 0x9000
#define CMDLINE_GPA 0x9100
#define CMDLINE_MAX 3840
_Static_assert(VM_MAX_APPEND + 100 <= CMDLINE_MAX, "what write_info() adds has room behind --append");
#define MULTIBOOT_MAGIC 0x2badb002
#define MB_INFO_MEMORY 1
#define MB_INFO_CMDLINE 4

static int load_elf(struct vm *vm, const uint8_t *file, size_t len, uint32_t *entry)
{
	const Elf32_Ehdr *eh = (const void *)file;

	if (len < sizeof(*eh) || memcmp(eh->e_ident, ELFMAG, SELFMAG) ||
	    eh->e_ident[EI_CLASS] != ELFCLASS32 || eh->e_phentsize != sizeof(Elf32_Phdr) ||
	    eh->e_phoff > len || eh->e_phnum > (len - eh->e_phoff) / sizeof(Elf32_Phdr))
		return -ENOEXEC;
	for (unsigned int i = 0; i < eh->e_phnum; i++) {
		const Elf32_Phdr *ph = (const Elf32_Phdr *)(const void *)(file + eh->e_phoff) + i;
		uint8_t *to;

		if (ph->p_type != PT_LOAD)
			continue;
		to = vm_at(vm, ph->p_paddr, ph->p_memsz);
		if (!to || ph->p_filesz > ph->p_memsz || ph->p_offset > len ||
		    ph->p_filesz > len - ph->p_offset)
			return -ENOEXEC;
		memcpy(to, file + ph->p_offset, ph->p_filesz);
		memset(to + ph->p_filesz, 0, ph->p_memsz - ph->p_filesz);
	}
	*entry = eh->e_entry;
	return 0;
}

static int read_whole(const char *path, uint8_t **out, size_t *len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), err = 0;
	struct stat st;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) || !(*out = malloc((size_t)st.st_size + 1)))
		err = -errno;
	else if (read(fd, *out, (size_t)st.st_size) != st.st_size)
		err = -EIO;
	*len = err ? 0 : (size_t)st.st_size;
	close(fd);
	return err;
}

/* The guest learns what it can't measure: TSC rate, RAM layout and number of vCPUs. */
static void write_info(struct vm *vm)
{
	uint32_t *info = vm_at(vm, INFO_GPA, 256);
	uint64_t low = vm->ram[0].size + vm->ram[1].size;
	uint64_t high = vm->nr_ram > 2 ? vm->ram[2].size : 0;

	memset(info, 0, 128);
	info[0] = MB_INFO_MEMORY | MB_INFO_CMDLINE;
	info[1] = 640;
	info[2] = (uint32_t)((low >> 10) - 1024);
	info[4] = CMDLINE_GPA;
	snprintf(vm_at(vm, CMDLINE_GPA, CMDLINE_MAX), CMDLINE_MAX,
		 "%s tsc_khz=%u low=%llu high=%llu vcpus=%u", vm->opt.append ? vm->opt.append : "",
		 vm->tsc_khz, (unsigned long long)low >> 20, (unsigned long long)high >> 20,
		 vm->opt.nr_vcpus);
}

static struct kvm_segment flat(uint8_t type, uint16_t selector)
{
	return (struct kvm_segment){ .limit = 0xffffffff, .selector = selector, .type = type,
				     .present = 1, .db = 1, .s = 1, .g = 1 };
}

static int set_entry(struct vcpu *c, uint32_t entry)
{
	struct kvm_mp_state mp = { KVM_MP_STATE_RUNNABLE };
	struct kvm_regs regs = { .rip = entry, .rflags = 2 };
	struct kvm_sregs s;

	if (ioctl(c->fd, KVM_GET_SREGS, &s))
		return -errno;
	s.cs = flat(11, 8);
	s.ds = s.es = s.fs = s.gs = s.ss = flat(3, 16);
	s.cr0 |= 1;
	regs.rax = c->index ? GUEST_AP_MAGIC : MULTIBOOT_MAGIC;
	regs.rbx = c->index ? 0 : INFO_GPA;
	regs.rdi = c->index;
	if (ioctl(c->fd, KVM_SET_SREGS, &s) || ioctl(c->fd, KVM_SET_REGS, &regs) ||
	    ioctl(c->fd, KVM_SET_MP_STATE, &mp))
		return -errno;
	return 0;
}

/** boot_load() - load opt.kernel and point every vCPU at its entry */
int boot_load(struct vm *vm)
{
	uint8_t *file = NULL;
	uint32_t entry = 0;
	size_t len = 0;
	int err = read_whole(vm->opt.kernel, &file, &len);

	if (!err)
		err = load_elf(vm, file, len, &entry);
	free(file);
	if (err)
		return err;
	write_info(vm);
	for (unsigned int i = 0; i < vm->opt.nr_vcpus && !err; i++)
		err = set_entry(&vm->vcpus[i], entry);
	return err;
}
