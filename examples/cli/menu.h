/* A menu: a few programs that together answer many questions. See menu.c. */
#ifndef MENU_H
#define MENU_H

#include "cli.h"

#define MENU_MAX POLAR_MAX_MENU

typedef struct menu_entry {
    int *path, n;
} menu_entry;

typedef struct menu {
    int n, n_layer;
    menu_entry entries[MENU_MAX]; /* the first is the model's own program */
} menu;

/* Chooses at most `size` programs by the results in a supervision file, and the model's own. 0, or 1 after a message;
 * free it then, too. */
int menu_choose(menu *m, int size, const char *file, const polar_program *own, const cli_questions *questions);
/* The same by what training reads; with `any_length` 1 lengths do not matter. */
int menu_choose_for(menu *m, int size, const polar_train_question *questions, const polar_program *own,
                    int n_questions, int any_length);
/* Adds a program that somebody names, unless the menu has it. 0, or an exit status after a message. */
int menu_add(menu *m, const char *program);
void menu_free(menu *m);
/* Writes the programs as an array of texts. */
void menu_put(FILE *f, const menu *m);

#endif /* MENU_H */
