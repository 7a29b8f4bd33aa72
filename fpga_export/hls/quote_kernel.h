#ifndef QUOTE_KERNEL_H
#define QUOTE_KERNEL_H
#include "quote_types.h"

// State -> offsets. `table` holds one page.
void quote_slow(const quote_table table, const quote_registers &registers, const quote_state &state, quote_offsets &offsets);
// Offsets and book -> quotes.
void quote_fast(const quote_registers &registers, const quote_offsets &offsets, const quote_book &book, quote_ticks &quotes);
// Both: the top function for synthesis. `table` is a memory the host fills; tables.h has its contents.
void quote_kernel(const quote_table table, const quote_registers &registers, const quote_state &state, const quote_book &book, quote_ticks &quotes,
                  quote_offsets &offsets);
#endif
