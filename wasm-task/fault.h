// The one sentence that says why there is no result.
#pragma once
#include "text.h"

// Writes the sentence and gives false. In its form stand %s for words that end with a zero, %t for a text, %u for a uint32_t,
// %l for a uint64_t, %d for an int32_t, %g for a double; of a text 100 bytes at most, and what is no printable ASCII as a
// question mark.
bool fail(const char *form, ...);
bool fail_for_memory(const char *what);

text fault(void);
