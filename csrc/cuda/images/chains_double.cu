#include "cuda/images/chains.h"

template void fntk::launch_chains<double>(const ImageLaunch<double>&, long, bool, const Place&);
