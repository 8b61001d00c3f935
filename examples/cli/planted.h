/* See planted.c. */
#ifndef PLANTED_H
#define PLANTED_H

#include "cli.h"

/* Runs the searches of a file of planted rewards and writes their steps to stdout; returns the exit status. */
int search_planted(const char *path);

#endif
