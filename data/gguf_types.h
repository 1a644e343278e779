/* What reading and writing GGUF share. */
#ifndef AT_GGUF_TYPES_H
#define AT_GGUF_TYPES_H

#include "data/gguf.h"

enum {
    GGUF_ALIGN = 32, GGUF_VERSION = 3,
    GGUF_BLOCK = 32,            /* elements of a block of Q8_0 ..             */
    GGUF_BLOCK_BYTES = 34,      /* .. which are a float16 and 32 bytes        */
};

enum gguf_code { GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32,
                 GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_U64,
                 GGUF_I64, GGUF_F64, GGUF_CODES };

struct gguf_type { const char *name; uint32_t code; size_t block, bytes; };
extern const struct gguf_type gguf_types[AT_GGUF_OTHER];

#endif
