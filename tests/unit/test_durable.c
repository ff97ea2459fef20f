#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/system/durable.h"

static char dir[] = "/tmp/psd-test-XXXXXX", path[64];
static psd_err_t err;

static void setup(void)
{
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/file", dir);
}
static void teardown(void)
{
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    cr_assert_eq(system(command), 0);
}
TestSuite(durable, .init = setup, .fini = teardown, .timeout = 600);

static int count_names(void)
{
    int n = 0;
    DIR *names = opendir(dir);
    for (struct dirent *name; (name = readdir(names));)
        n += name->d_name[0] != '.';
    closedir(names);
    return n;
}

static void write_file(const char *text)
{
    psd_durable_t *file = psd_durable_new(path, strlen(text), &err);
    cr_assert_not_null(file, "%s", err.text);
    cr_assert_eq(psd_durable_write(file, text, strlen(text), 0, &err), PSD_OK);
    cr_assert_eq(psd_durable_end(&file, &err), PSD_OK, "%s", err.text);
    cr_assert_null(file);
}

static void assert_text(const char *text)
{
    char got[64] = "";
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file);
    cr_assert_eq(fread(got, 1, sizeof got, file), strlen(text));
    fclose(file);
    cr_assert_str_eq(got, text);
}

Test(durable, a_file_has_its_name_only_when_it_is_whole)
{
    psd_durable_t *file = psd_durable_new(path, 6, &err);
    cr_assert_eq(psd_durable_write(file, "def", 3, 3, &err), PSD_OK);
    cr_assert(access(path, F_OK) != 0 && count_names() == 1);
    cr_assert_eq(psd_durable_write(file, "abc", 3, 0, &err), PSD_OK);
    cr_assert_eq(psd_durable_end(&file, &err), PSD_OK);
    assert_text("abcdef");
    cr_assert_eq(count_names(), 1);
}

Test(durable, giving_up_leaves_the_old_file_and_nothing_else)
{
    write_file("old");
    psd_durable_t *file = psd_durable_new(path, 0, &err);
    cr_assert_eq(psd_durable_write(file, "new", 3, 0, &err), PSD_OK);
    psd_durable_abandon(&file);
    assert_text("old");
    cr_assert_eq(count_names(), 1);
    write_file("new");
    assert_text("new");
}

Test(durable, the_remains_of_an_earlier_process_with_our_number_do_no_harm)
{
    char other[96];
    for (int i = 1; i < 20; i++) {
        snprintf(other, sizeof other, "%s.%ld-%d.tmp", path, (long)getpid(), i);
        fclose(fopen(other, "w"));
    }
    write_file("new");
    assert_text("new");
    cr_assert_eq(count_names(), 20);
}

Test(durable, temporary_files_are_known_by_their_names)
{
    cr_assert(psd_durable_is_temporary("file.12-3.tmp", "file"));
    cr_assert(psd_durable_is_temporary("a.b.12-3.tmp", NULL));
    cr_assert(!psd_durable_is_temporary("file.12-3.tmp", "fil"));
    for (const char *const *name = (const char *const[]){ "file", "file.tmp", "12-3.tmp", ".12-3.tmp", "f.-3.tmp", "f.1-.tmp",
                                                          "f-1-1.tmp", ".tmp", "", NULL };
         *name; name++)
        cr_assert(!psd_durable_is_temporary(*name, NULL), "%s", *name);
}

Test(durable, directories_are_made_as_far_as_they_are_missing)
{
    char deep[96];
    snprintf(deep, sizeof deep, "%s/a//b/c/", dir);
    cr_assert_eq(psd_durable_mkdir(deep, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_durable_mkdir(deep, &err), PSD_OK);
    cr_assert_eq(access(deep, F_OK), 0);
    write_file("x");
    snprintf(deep, sizeof deep, "%s/file/below", dir);
    cr_assert_eq(psd_durable_mkdir(deep, &err), PSD_EIO);
    cr_assert(strstr(err.text, "cannot make the directory "), "%s", err.text);
}

static void put(const char *text) { cr_assert_eq(psd_durable_put(path, text, strlen(text), &err), PSD_OK, "%s", err.text); }

static bool is_link(void)
{
    struct stat info;
    return lstat(path, &info) == 0 && S_ISLNK(info.st_mode);
}

Test(durable, a_link_is_followed_and_stays)
{
    char target[80];
    snprintf(target, sizeof target, "%s/target", dir);
    cr_assert_eq(symlink("second", path), 0);
    snprintf(target, sizeof target, "%s/second", dir);
    cr_assert_eq(symlink("target", target), 0);
    for (int i = 0; i < 2; i++) { /* its target is missing, or present */
        put(i ? "two" : "one");
        assert_text(i ? "two" : "one");
        cr_assert(is_link());
        cr_assert_eq(count_names(), 3);
    }
}

Test(durable, links_in_a_ring_are_an_error)
{
    cr_assert_eq(symlink("file", path), 0);
    cr_assert_eq(psd_durable_put(path, "x", 1, &err), PSD_EIO);
    cr_assert_not_null(strstr(err.text, "Too many levels of symbolic links"), "%s", err.text);
}

Test(durable, a_device_stays_one)
{
    struct stat info;
    cr_assert_eq(psd_durable_put("/dev/null", "text", 4, &err), PSD_OK, "%s", err.text);
    cr_assert(stat("/dev/null", &info) == 0 && S_ISCHR(info.st_mode));
    cr_assert_eq(symlink("/dev/null", path), 0);
    put("text");
    cr_assert(is_link());
    cr_assert_eq(psd_durable_put("/dev/full", "text", 4, &err), PSD_EIO);
    cr_assert_str_eq(err.text, "cannot write /dev/full: No space left on device");
}

Test(durable, a_fifo_gets_the_bytes_front_to_back)
{
    char got[8] = "";
    cr_assert_eq(mkfifo(path, 0600), 0);
    const int reader = open(path, O_RDONLY | O_NONBLOCK);
    psd_durable_t *file = psd_durable_follow(path, 6, &err);
    cr_assert_not_null(file, "%s", err.text);
    cr_assert_eq(psd_durable_write(file, "def", 3, 3, &err), PSD_OK);
    cr_assert_eq(psd_durable_write(file, "abc", 3, 0, &err), PSD_OK);
    cr_assert_eq(psd_durable_end(&file, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(read(reader, got, sizeof got), 6);
    cr_assert_str_eq(got, "abcdef");
    close(reader);
    cr_assert_eq(count_names(), 1);
}

Test(durable, an_open_descriptor_gets_the_bytes_where_it_is)
{
    char name[32];
    const int fd = open(path, O_RDWR | O_CREAT, 0600);
    cr_assert_eq(write(fd, "before ", 7), 7);
    snprintf(name, sizeof name, "/dev/fd/%d", fd);
    cr_assert_eq(psd_durable_put(name, "text", 4, &err), PSD_OK, "%s", err.text);
    cr_assert_eq(write(fd, " after", 6), 6);
    close(fd);
    assert_text("before text after");
}

Test(durable, a_path_that_is_not_a_file_is_refused)
{
    cr_assert_eq(psd_durable_put(dir, "x", 1, &err), PSD_EIO);
    cr_assert_not_null(strstr(err.text, ": it is a directory; name a file"), "%s", err.text);
    snprintf(path, sizeof path, "%s/none/file", dir);
    cr_assert_eq(psd_durable_put(path, "x", 1, &err), PSD_EIO);
    cr_assert_not_null(strstr(err.text, "No such file or directory"), "%s", err.text);
}
