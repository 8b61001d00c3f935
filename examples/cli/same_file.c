/* Whether two paths lead to one file, as same_file.h says. */
#ifndef _WIN32
#define _POSIX_C_SOURCE 200809L
#endif
#include "same_file.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <sys/stat.h>
#endif

#ifdef _WIN32
#define SEPARATORS "/\\"
#else
#define SEPARATORS "/"
#endif

/* What tells two names of one file: the device and the number of the file on it. */
typedef struct file_id {
    uint64_t device, number;
} file_id;

/* The file at a path, "-": stdin; 0 if there is none. */
static int find_file(const char *path, file_id *id) {
#ifdef _WIN32
    wchar_t wide[1024];
    BY_HANDLE_FILE_INFORMATION info;
    HANDLE file = GetStdHandle(STD_INPUT_HANDLE);
    const int named = strcmp(path, "-") != 0;
    int found;
    if (named) {
        if (!MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, 1024)) return 0;
        file = CreateFileW(wide, 0, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, OPEN_EXISTING,
                           FILE_FLAG_BACKUP_SEMANTICS, NULL);
    }
    if (file == INVALID_HANDLE_VALUE || !file) return 0;
    found = GetFileInformationByHandle(file, &info) != 0;
    if (named) CloseHandle(file);
    id->device = info.dwVolumeSerialNumber;
    id->number = (uint64_t)info.nFileIndexHigh << 32 | info.nFileIndexLow;
    return found;
#else
    struct stat s;
    if (strcmp(path, "-") ? stat(path, &s) : fstat(0, &s)) return 0;
    id->device = (uint64_t)s.st_dev;
    id->number = (uint64_t)s.st_ino;
    return 1;
#endif
}

/* The last part of a path; the rest into `directory`, 0 if it does not fit. */
static const char *split_path(const char *path, char *directory, size_t size) {
    const char *name = path;
    for (const char *s = path; *s; s++)
        if (strchr(SEPARATORS, *s)) name = s + 1;
    if ((size_t)(name - path) + 2 > size) return NULL;
    snprintf(directory, size, "%.*s", name > path ? (int)(name - path) : 1, name > path ? path : ".");
    return name;
}

int same_file(const char *a, const char *b) {
    char in_a[1024], in_b[1024];
    const char *name_a = split_path(a, in_a, sizeof in_a), *name_b = split_path(b, in_b, sizeof in_b);
    file_id x, y;
    const int has_a = find_file(a, &x), has_b = find_file(b, &y);
    if (has_a || has_b) return has_a && has_b && x.device == y.device && x.number == y.number;
    return name_a && name_b && !strcmp(name_a, name_b) && find_file(in_a, &x) && find_file(in_b, &y) &&
           x.device == y.device && x.number == y.number;
}
