// SPDX-License-Identifier: GPL-2.0-or-later
/* Zero? Compressible? And back. The only file that knows isa-l and zstd. */
#include "page_codec.h"

#include <errno.h>
#include <isa-l/mem_routines.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "packet.h"

/* @scratch: a quiet copy; the compressor must not see its input change under it */
struct page_codec {
	ZSTD_CCtx *pack;
	ZSTD_DCtx *unpack;
	uint8_t scratch[PACKET_STRIPE];
};

int page_codec_open(int level, struct page_codec **out)
{
	struct page_codec *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->pack = ZSTD_createCCtx();
	c->unpack = ZSTD_createDCtx();
	if (!c->pack || !c->unpack) {
		page_codec_close(c);
		return -ENOMEM;
	}
	ZSTD_CCtx_setParameter(c->pack, ZSTD_c_compressionLevel, level);
	*out = c;
	return 0;
}

void page_codec_close(struct page_codec *c)
{
	if (!c)
		return;
	ZSTD_freeCCtx(c->pack);
	ZSTD_freeDCtx(c->unpack);
	free(c);
}

/** page_is_zero() - 4096 bytes at @page */
bool page_is_zero(const void *page)
{
	return isal_zero_detect((void *)page, 4096) == 0;
}

/** page_codec_pack() - Return: bytes at @to, 0 if it did not get at least 1/16 smaller */
uint32_t page_codec_pack(struct page_codec *c, const void *from, uint32_t len, void *to,
			 uint32_t room)
{
	uint32_t most = len - len / 16;
	size_t n;

	memcpy(c->scratch, from, len);
	n = ZSTD_compress2(c->pack, to, most < room ? most : room, c->scratch, len);
	return ZSTD_isError(n) ? 0 : (uint32_t)n;
}

/** page_codec_unpack() - Return: 0, -EBADMSG unless it unpacks to exactly @len bytes */
int page_codec_unpack(struct page_codec *c, const void *from, uint32_t payload, void *to,
		      uint32_t len)
{
	size_t n = ZSTD_decompressDCtx(c->unpack, to, len, from, payload);

	return ZSTD_isError(n) || n != len ? -EBADMSG : 0;
}
