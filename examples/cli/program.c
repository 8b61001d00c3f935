/* polar program: programs of layers in their several forms. */
#include "cli.h"

int command_program(cli *c) {
    int n_layer = 0, status;
    const cli_option options[] = {
        {"layers", 'l', CLI_INT, &n_layer, "D", "layers of the model"},
        {0}
    };
    if ((status = cli_read(c, options, 0, 1)) >= 0) return status;
    return cli_fail("comes with the section [prog]");
}
