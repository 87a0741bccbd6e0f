#include "cuda/dense/pairs.h"

template void fntk::cuda_pairs<double>(const PairsCall<double>&, const Place&);
