/* Owns: the program's entry and the choice of command. */
#include "pumice.h"

#include <stdio.h>

int main(void)
{
    printf("pumice %s\n", pm_version());
    return 0;
}
