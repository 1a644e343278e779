/* Compiled once per public header: it must stand alone. */
#include AT_HEADER

int main(void)
{
    return 0;
}
