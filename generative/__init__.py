"""Generation of images from poses: the head at the cloud, the images and the loss at the edge."""
