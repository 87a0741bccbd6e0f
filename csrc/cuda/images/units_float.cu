#include "cuda/images/launch.h"

namespace fntk {

template void cuda_image_pairs<float>(const ImageCode&, const ImagePairsCall<float>&, const Place&);
template void cuda_chain_tables<float>(const ImageCode&, const ChainTablesCall<float>&, const Place&);

}  // namespace fntk
