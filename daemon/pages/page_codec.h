/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PAGES_PAGE_CODEC_H
#define PAGES_PAGE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct page_codec;

int page_codec_open(int level, struct page_codec **out);
void page_codec_close(struct page_codec *c);
bool page_is_zero(const void *page);
uint32_t page_codec_pack(struct page_codec *c, const void *from, uint32_t len, void *to,
			 uint32_t room);
int page_codec_unpack(struct page_codec *c, const void *from, uint32_t payload, void *to,
		      uint32_t len);

#endif
