/* Files by what they are, not by their names: links and other spellings of a path. */
#ifndef SAME_FILE_H
#define SAME_FILE_H

/* 1 if two paths lead to one file, or to one place for a new one; else 0. "-" is stdin. */
int same_file(const char *a, const char *b);

#endif /* SAME_FILE_H */
