/* answer.h - finds the final answer in the response of a language model, and decides whether two answers say the same:
 * numbers, LaTeX formulas, lists, sets, tuples, intervals, matrices, equations and inequalities, times, choices, words.
 * README.md beside it says what is equal to what. MIT licence.
 *
 *     cc -c examples/answer/answer.c -I.       with polar.h in ".", of which only types are used
 *
 * Nothing here keeps global state or depends on the locale. */
#ifndef ANSWER_H
#define ANSWER_H

#include "polar.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The final answer in a response: what follows "####" or "# Answer"; else the last \boxed{}; else what is said to be
 * the answer ("the answer is 12."); else the last formula; else the last number. The result points into the
 * response; its length is 0 if there is no answer. Of a long response only the last 64 KiB are read. */
polar_span answer_extract(const char *response, size_t length);

/* The answer in a reference: the field "answer" or "solution" of a data set. "... #### 42" gives 42, a solution its
 * \boxed{}, "9 (apples)" gives 9, any other text is the answer itself. Points into the text. */
polar_span answer_reference(const char *solution, size_t length);

#define ANSWER_SETS 1 /* lists are compared without order: the question asks for all solutions */
/* The flags that a question asks for by its words ("find the ...", "all ... separated by commas"). */
int answer_flags(const char *question, size_t length);

/* 1 if two answers say the same, 0 if not, -1 without memory for the comparison (one block of half a megabyte, from
 * ANSWER_MALLOC if that is defined). 0.333 is not 1/3, (1,2) is not (2,1), and an empty or malformed answer equals
 * nothing. Any bytes are accepted, at the cost of milliseconds; answers above 2 KiB must be the same bytes. A response
 * that was cut off is wrong whatever it says; that is for the caller to decide. */
int answer_equal(const char *pred, size_t n_pred, const char *gold, size_t n_gold, int flags);

/* The functions above for polar_vote and its like, with the flags of the question, which may be NULL. */
polar_judge answer_judge(const char *question, size_t length);

#ifdef __cplusplus
}
#endif
#endif
