// Memory that grows, up to what the host gives, and that nobody gives back: an instance trains once.
#pragma once
#include <stdint.h>

// Zeroed, and aligned to 16 bytes; 0 if there is no room.
void *allocate(uint64_t bytes);
