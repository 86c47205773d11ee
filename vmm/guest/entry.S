/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Way of the workload guest from its multiboot entry to C code at CPL 3.
 *
 * Every vCPU enters here in 32-bit protected mode. The first comes from multiboot
 * (EAX = 0x2BADB002, EBX = multiboot info); ferryvm starts the others with
 * EAX = 0x46564d58 and EDI = their index. The first makes the page tables (identity,
 * 2 MiB pages, user-accessible, up to 512 GiB worth of 1 GiB slots as RAM needs;
 * accessed and dirty from the start, so that no processor ever writes to them), the
 * others wait for it. All then drop to CPL 3 with IOPL 3 and interrupts off: code
 * at CPL 3 runs at native speed even where a hypervisor without hardware help has to
 * emulate CPL 0.
 */
	.set	MAGIC, 0x1badb002
	.set	FLAGS, 0x2			/* want memory figures */
	.set	PML4, 0x200000
	.set	PDPT, 0x201000
	.set	PD, 0x202000
	.set	NR_PD, 64			/* 64 GiB of guest-physical space */
	.set	READY, 0x1ff000			/* page tables are made */

	.section .multiboot, "a"
	.align 4
	.long	MAGIC, FLAGS, -(MAGIC + FLAGS)

	.text
	.code32
	.globl _start
_start:
	cli
	cmp	$0x46564d58, %eax
	je	wait_tables
	xor	%edi, %edi
	mov	%edi, READY
	mov	%ebx, %esi
	mov	$PML4, %edi
	xor	%eax, %eax
	mov	$2048, %ecx
	rep stosl
	movl	$(PDPT + 0x27), PML4
	mov	$PDPT, %edi
	mov	$(PD + 0x27), %eax
	mov	$NR_PD, %ecx
1:	mov	%eax, (%edi)
	add	$8, %edi
	add	$0x1000, %eax
	loop	1b
	mov	$PD, %edi
	xor	%edx, %edx
	mov	$0xe7, %eax
	mov	$(NR_PD * 512), %ecx
2:	mov	%eax, (%edi)
	mov	%edx, 4(%edi)
	add	$8, %edi
	add	$0x200000, %eax
	adc	$0, %edx
	loop	2b
	movl	$1, READY
	xor	%edi, %edi
	jmp	long_mode
wait_tables:
	cmpl	$1, READY
	jne	wait_tables
	xor	%esi, %esi
long_mode:
	mov	%cr4, %eax
	or	$0x220, %eax			/* PAE, OSFXSR */
	mov	%eax, %cr4
	mov	$PML4, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx		/* EFER.LME */
	rdmsr
	or	$0x100, %eax
	wrmsr
	mov	$0x174, %ecx			/* SYSENTER_CS, for sysexit */
	mov	$0x8, %eax
	xor	%edx, %edx
	wrmsr
	mov	%cr0, %eax
	or	$0x80000001, %eax
	mov	%eax, %cr0
	lgdt	gdtr
	ljmp	$0x8, $in_long_mode
	.code64
in_long_mode:
	mov	$0x10, %ax
	mov	%ax, %ss
	mov	%ax, %ds
	mov	%ax, %es
	mov	%edi, %ecx			/* 64 KiB of stack a vCPU, below 0x400000 */
	shl	$16, %ecx
	neg	%ecx
	add	$0x3ffff0, %ecx
	mov	%ecx, %esp
	pushq	$0x3002				/* IOPL 3 */
	popfq
	mov	$user, %edx
	mov	%esp, %ecx
	sysexitq
user:
	/* guest_main(index, multiboot info) */
	call	guest_main
3:	jmp	3b

	.align 16
gdt:	.quad	0
	.quad	0x00af9b000000ffff
	.quad	0x00cf93000000ffff
	.quad	0, 0
	.quad	0x00affb000000ffff		/* 0x28, 0x30: where sysexit looks */
	.quad	0x00cff3000000ffff
gdtr:	.word	55
	.long	gdt
	.section .note.GNU-stack, "", @progbits
