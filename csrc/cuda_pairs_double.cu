#include "cuda_pairs.h"

template void fntk::cuda_pairs<double>(const PairsCall<double>&, const Place&);
