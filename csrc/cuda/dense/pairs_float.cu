#include "cuda/dense/pairs.h"

template void fntk::cuda_pairs<float>(const PairsCall<float>&, const Place&);
