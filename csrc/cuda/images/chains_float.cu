#include "cuda/images/chains.h"

template void fntk::launch_chains<float>(const ImageLaunch<float>&, long, bool, const Place&);
