/* Which class an A64 instruction belongs to, by the encoding tables of the Arm Architecture Reference Manual (DDI 0487,
 * chapter C4). The order of the classes is that of the names in counts.py. */
#include <stdint.h>

enum { DOT_PRODUCT, INT8_MATMUL, SIMD_MULTIPLY, SIMD_OTHER, LOAD_STORE, BRANCH, SCALAR_OTHER, CLASSES };

/* Bits high to low of a word. */
static uint32_t bits(uint32_t word, int high, int low) { return (word >> low) & ((2u << (high - low)) - 1); }

/* A vector by one element of a vector, bits 28-24 = 01111 and bit 10 = 0: all are products but the BFloat16 dot product. */
static int by_element(uint32_t word) {
    uint32_t opcode = bits(word, 15, 12), size = bits(word, 23, 22), is_unsigned = bits(word, 29, 29);
    if (opcode == 14) return DOT_PRODUCT;                                /* SDOT, UDOT */
    if (opcode == 15 && !is_unsigned && !(size & 1)) return DOT_PRODUCT; /* USDOT, SUDOT */
    return opcode == 15 && size == 1 ? SIMD_OTHER : SIMD_MULTIPLY;       /* BFDOT */
}

/* Three vectors that a later revision added, bits 28-24 = 01110, bit 21 = 0, bit 15 = 1, bit 10 = 1. */
static int three_extra(uint32_t word) {
    uint32_t opcode = bits(word, 14, 11), size = bits(word, 23, 22);
    if (size == 2 && (opcode == 2 || opcode == 3)) return DOT_PRODUCT;   /* SDOT, UDOT; USDOT */
    if (size == 2 && (opcode == 4 || opcode == 5)) return INT8_MATMUL;   /* SMMLA, UMMLA; USMMLA */
    return opcode < 2 ? SIMD_MULTIPLY : SIMD_OTHER;                      /* SQRDMLAH, SQRDMLSH */
}

/* Three vectors of one type, bits 28-24 = 01110, bit 21 = 1, bit 10 = 1. */
static int three_same(uint32_t word) {
    uint32_t opcode = bits(word, 15, 11), is_unsigned = bits(word, 29, 29);
    switch (opcode) {
    case 0x12: case 0x13: case 0x16:      /* MLA, MLS; MUL; SQDMULH, SQRDMULH */
    case 0x19: case 0x1b:                 /* FMLA, FMLS; FMUL, FMULX */
        return SIMD_MULTIPLY;
    default:
        return opcode == 0x1d && !is_unsigned ? SIMD_MULTIPLY : SIMD_OTHER; /* FMLAL, FMLSL */
    }
}

static int vector(uint32_t word) {
    if (bits(word, 28, 24) == 0xf) {
        if (bits(word, 10, 10)) return SIMD_OTHER; /* shifts by, and moves of, a constant */
        return by_element(word);
    }
    if (bits(word, 21, 21) && bits(word, 10, 10)) return three_same(word);
    if (bits(word, 21, 21) && bits(word, 11, 10) == 0) { /* of two widths: SMLAL to SQDMULL multiply */
        uint32_t opcode = bits(word, 15, 12);
        return opcode >= 8 && opcode <= 13 ? SIMD_MULTIPLY : SIMD_OTHER;
    }
    if (!bits(word, 21, 21) && bits(word, 15, 15) && bits(word, 10, 10)) return three_extra(word);
    if (bits(word, 22, 21) == 2 && bits(word, 15, 14) == 0 && bits(word, 10, 10)) { /* half precision */
        uint32_t opcode = bits(word, 13, 11);
        return opcode == 3 || (opcode == 1 && !bits(word, 29, 29)) ? SIMD_MULTIPLY : SIMD_OTHER; /* FMUL; FMLA, FMLS */
    }
    return SIMD_OTHER;
}

static int instruction_class(uint32_t word) {
    uint32_t group = bits(word, 28, 25);
    if ((group & 5) == 4) return LOAD_STORE;
    if ((group & 14) == 10) return bits(word, 31, 22) == 0x354 ? SCALAR_OTHER : BRANCH; /* system instructions */
    if ((group & 7) == 7) {
        if (!bits(word, 31, 31) && bits(word, 28, 25) == 7) return vector(word);
        return bits(word, 30, 30) ? SIMD_OTHER : SCALAR_OTHER; /* one lane of a vector register; floating point */
    }
    return group == 2 ? SIMD_OTHER : SCALAR_OTHER; /* scalable vectors; integers */
}
