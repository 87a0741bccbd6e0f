#include "cuda/images/launch.h"

namespace fntk {

template void cuda_image_pairs<double>(const ImageCode&, const ImagePairsCall<double>&, const Place&);
template void cuda_chain_tables<double>(const ImageCode&, const ChainTablesCall<double>&, const Place&);

}  // namespace fntk
